package ingress

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"cagebuild.dev/runtime/internal/settings"
	"cagebuild.dev/runtime/internal/transport"
)

// Publication says that what connects to an address is for a port of the cage.
type Publication struct {
	Address transport.Address
	Port    uint16
}

func (p Publication) String() string { return fmt.Sprintf("%v=%d", p.Address, p.Port) }

// ParsePublication reads "WHERE=PORT", where WHERE is a URL (tcp, unix, vsock), ADDRESS:PORT, or a port of all
// addresses. "PORT" alone is the same port of all addresses.
func ParsePublication(text string) (Publication, error) {
	where, portText, found := cutLast(text, "=")
	if !found {
		where, portText = text, text
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return Publication{}, fmt.Errorf("%.200q: %.50q is no port of the cage: expected [URL or ADDRESS:PORT]=PORT", text, portText)
	}
	address, err := ParseWhere(where)
	if err != nil {
		return Publication{}, fmt.Errorf("%.200q: %w", text, err)
	}
	return Publication{Address: address, Port: uint16(port)}, nil
}

// ParseWhere reads a URL (tcp, unix, vsock), ADDRESS:PORT, or a port of all addresses.
func ParseWhere(where string) (transport.Address, error) {
	if strings.Contains(where, "://") {
		address, err := transport.Parse(where)
		if err == nil && address.Scheme == "hybrid" {
			err = fmt.Errorf("clients don't come through hybrid vsock: expected tcp, unix or vsock")
		}
		return address, err
	}
	if _, err := strconv.ParseUint(where, 10, 16); err == nil {
		where = ":" + where
	}
	if _, _, err := net.SplitHostPort(where); err != nil {
		return transport.Address{}, fmt.Errorf("%.100q is neither a URL nor ADDRESS:PORT", where)
	}
	return transport.Parse("tcp://" + where)
}

func cutLast(text, separator string) (before, after string, found bool) {
	at := strings.LastIndex(text, separator)
	if at < 0 {
		return text, "", false
	}
	return text[:at], text[at+len(separator):], true
}

// Publications returns what is wanted, checked against the ports that the cage has; without wishes every port is
// published as the same port of all addresses.
func Publications(wanted []string, ports []settings.Ingress) ([]Publication, error) {
	known := map[uint16]bool{}
	var list []Publication
	for _, rule := range ports {
		known[rule.Port] = true
		if len(wanted) == 0 {
			list = append(list, Publication{
				Address: transport.Address{Scheme: "tcp", Port: uint32(rule.Port)}, Port: rule.Port,
			})
		}
	}
	taken := map[string]bool{}
	for _, text := range wanted {
		publication, err := ParsePublication(text)
		switch where := publication.Address.String(); {
		case err != nil:
			return nil, err
		case !known[publication.Port]:
			return nil, fmt.Errorf("%.200q: the cage has no port %d: %s", text, publication.Port, describe(ports))
		case taken[where]:
			return nil, fmt.Errorf("%.200q: %s is published twice", text, where)
		default:
			taken[where] = true
			list = append(list, publication)
		}
	}
	return list, nil
}

func describe(ports []settings.Ingress) string {
	if len(ports) == 0 {
		return "it has none"
	}
	var words []string
	for _, rule := range ports {
		words = append(words, strconv.Itoa(int(rule.Port)))
	}
	return "it has " + strings.Join(words, ", ")
}
