"""Pull jobs in Redis, as the api and the puller share them."""
