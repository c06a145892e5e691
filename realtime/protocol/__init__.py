"""The wire protocol: envelope, codecs, errors, close codes, and the registry that documentation is generated from."""
