"""The models of the engine: which are loaded, and how requests wait for them and reach them."""
