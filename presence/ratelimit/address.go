package ratelimit

import (
	"net/netip"
	"strings"
)

// Address gives the client's address of a connection from remote (host:port). Where that is
// a trusted proxy's, it is the last one in forwarded (the X-Forwarded-For headers, in their
// order) that no trusted proxy has: those before it anybody can write. The zero Addr stands
// for what is none.
func Address(remote string, forwarded []string, trusted []netip.Prefix) netip.Addr {
	addr := parseAddr(remote)
	for i := len(forwarded) - 1; i >= 0; i-- {
		for rest := forwarded[i]; ; {
			if !within(addr, trusted) {
				return addr
			}
			comma := strings.LastIndexByte(rest, ',')
			before := parseAddr(strings.TrimSpace(rest[comma+1:]))
			if !before.IsValid() {
				return addr // a proxy that does not say whom it speaks for speaks for itself
			}
			addr = before
			if comma < 0 {
				break
			}
			rest = rest[:comma]
		}
	}
	return addr
}

func within(addr netip.Addr, prefixes []netip.Prefix) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// parseAddr reads an address, with or without a port.
func parseAddr(s string) netip.Addr {
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		with, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}
		}
		addr = with.Addr()
	}
	return addr.Unmap().WithZone("")
}

// AddressKey is the key of kind ip of an address: itself, or of IPv6 its /64, which is what
// one customer has at least.
func AddressKey(addr netip.Addr) string {
	switch {
	case !addr.IsValid():
		return "unknown"
	case addr.Is4():
		return addr.String()
	}
	p, _ := addr.Prefix(64) // an IPv6 address has one
	return p.String()
}
