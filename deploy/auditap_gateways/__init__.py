"""What gateways need to be taps: configurations to paste, and the programs that they load. docs/gateways explains each."""
