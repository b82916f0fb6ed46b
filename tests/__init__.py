"""The tests mirror the modules of `hitledger`."""
