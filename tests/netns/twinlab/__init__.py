"""The namespace lab: two appliances between real clients and a real server, on one machine.

Read in this order: `topology` (namespaces, links, filters), `nodeconfig` (the TOML of a node), `node` (the two
daemons of a node and its ctl), `routers` (FRR, where the lab asks for it), `lab` (all of it together, and what is kept
on disk), `traffic/` (programs that run inside the client and server namespaces), `drive` (the side that commands them).
"""
