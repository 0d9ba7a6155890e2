"""Receivers: how pairs get in from gateways that send them by themselves, and know nothing of auditap's protocol.

A receiver is a tap in its own right. It gives each pair a sequence number and queues it, and sends to the collector's Unix
socket as every tap does.

- `received_tap`: the tap of one receiver
- `loss_detector`: which pairs a gateway numbered and the receiver never saw
- `line_stream`: one pair on each line, over a Unix stream socket
- `file_tail`: one pair on each line of a file in memory
- `ext_proc_server`: the gRPC service that Envoy's external processing filter sends to; needs the extra `envoy`
- `ext_proc_messages`: its messages
- `processed_exchange`: a pair out of the parts that it sends
- `loop_watch`: whether this process has hung lately
"""
