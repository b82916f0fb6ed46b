"""Test runs: n random GET requests to the service itself, over real HTTP.

`pool` draws the URLs, `load` sends the requests, `record` keeps what is known of a run,
`queue` and `worker` carry its parts through Celery, and `runs` is what the web and the
command line use.
"""
