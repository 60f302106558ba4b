"""HTTP as downloads need it: redirects, credentials, proxies, ranges."""
