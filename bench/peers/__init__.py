"""Other servers, doing the same work under the same generator. Nothing of the product imports this."""
