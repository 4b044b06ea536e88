"""Parts of well-known models as plain torch modules, for the node kind `torch_class`."""
