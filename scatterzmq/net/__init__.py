"""Sockets: how peers and clients reach each other. Everything that says "zmq" is in here."""
