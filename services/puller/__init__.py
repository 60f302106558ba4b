"""The puller: RQ workers that turn a model name into verified blobs and a manifest."""
