"""The demo in real browsers: two pages that really call each other."""
