"""HTTP for downloads: redirects, credentials, proxies and byte ranges."""
