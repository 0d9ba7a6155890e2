"""The collector: how captures get in.

- `collector`: the endpoints: POST /v1/captures and /v1/heartbeats
- `tokens`: which tap ids a bearer token may send for
- `in_flight`: bounds on the requests and bytes in memory
- `body`: a request body, inflated and split into JSON texts
- `formats`: the formats that taps and gateways send, and the routes that take them
- `intake`: bodies into captures; where a capture is first decoded
- `heartbeats`: JSON texts into heartbeats
- `ports`: what the collector hands captures and heartbeats to
- `unix_socket`: the socket for taps on the same host
- `replay`, `capture_file`: send the captures of a file to a collector, as a tap would
- `traffic_file`: files of pairs that other tools write, read as captures
"""
