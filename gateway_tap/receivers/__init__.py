"""Receivers: how pairs get in from gateways that send them by themselves, and know nothing of auditap's protocol.

A receiver is a tap in its own right. It gives each pair a sequence number and queues it, and sends to the collector's Unix
socket as every tap does.

- `received_tap`: the tap of one receiver
- `loss_detector`: which pairs a gateway numbered and the receiver never saw
- `line_stream`: one pair on each line, over a Unix stream socket
"""
