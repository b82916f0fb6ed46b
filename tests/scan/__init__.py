"""A scan of the HTTP API from outside, by schemathesis: whatever is asked, the answer is one that is documented."""
