"""Search registries on behalf of the api, which opens no connections to the internet."""
