// Package netlink makes addresses local to this machine: what connects to them ends here.
package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

const (
	tableLocal  = 255 // RT_TABLE_LOCAL, which is looked at before every other
	protoStatic = 4   // RTPROT_STATIC
	scopeHost   = 254 // RT_SCOPE_HOST
)

// answerTime bounds the wait for the kernel's answer, which is there at once.
var answerTime = syscall.Timeval{Sec: 10}

// AddLocal routes a network to the loopback interface, as "ip route add local PREFIX dev lo" does. One that is
// there already is no error. Needs CAP_NET_ADMIN; the error wraps a syscall.Errno.
func AddLocal(prefix netip.Prefix) error {
	loopback, err := net.InterfaceByName("lo")
	if err == nil {
		err = request(newRoute(prefix.Masked(), loopback.Index))
	}
	if err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("make %s local: %w", prefix, err)
	}
	return nil
}

// request sends a message to the kernel, and waits until it has done what that says.
func request(message []byte) error {
	socket, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket AF_NETLINK", err)
	}
	defer syscall.Close(socket)
	if err := syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &answerTime); err != nil {
		return os.NewSyscallError("setsockopt SO_RCVTIMEO", err)
	}
	kernel := &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}
	if err := syscall.Sendto(socket, message, 0, kernel); err != nil {
		return os.NewSyscallError("sendto AF_NETLINK", err)
	}
	answer := make([]byte, 4096)
	size, _, err := syscall.Recvfrom(socket, answer, 0)
	if err != nil {
		return os.NewSyscallError("recvfrom AF_NETLINK", err)
	}
	return acknowledged(answer[:size])
}

// newRoute is the message RTM_NEWROUTE (rtnetlink(7)).
func newRoute(prefix netip.Prefix, device int) []byte {
	family := byte(syscall.AF_INET6)
	if prefix.Addr().Is4() {
		family = syscall.AF_INET
	}
	order := binary.NativeEndian
	route := []byte{ // struct rtmsg, and its flags
		family, byte(prefix.Bits()), 0, 0, tableLocal, protoStatic, scopeHost, syscall.RTN_LOCAL, 0, 0, 0, 0,
	}
	route = attribute(route, syscall.RTA_DST, prefix.Addr().AsSlice())
	route = attribute(route, syscall.RTA_OIF, order.AppendUint32(nil, uint32(device)))
	flags := uint16(syscall.NLM_F_REQUEST | syscall.NLM_F_ACK | syscall.NLM_F_CREATE | syscall.NLM_F_EXCL)
	message := order.AppendUint32(nil, uint32(syscall.NLMSG_HDRLEN+len(route)))
	message = order.AppendUint16(message, syscall.RTM_NEWROUTE)
	message = order.AppendUint16(message, flags)
	message = order.AppendUint32(message, 1) // sequence number
	message = order.AppendUint32(message, 0) // the kernel fills in whose it is
	return append(message, route...)
}

// attribute appends a struct rtattr. All that are used here have a length that needs no padding.
func attribute(message []byte, kind uint16, value []byte) []byte {
	message = binary.NativeEndian.AppendUint16(message, uint16(syscall.SizeofRtAttr+len(value)))
	message = binary.NativeEndian.AppendUint16(message, kind)
	return append(message, value...)
}

// acknowledged reads the kernel's answer: NLMSG_ERROR, with 0 when all is well.
func acknowledged(answer []byte) error {
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return err
	}
	for _, message := range messages {
		if message.Header.Type != syscall.NLMSG_ERROR || len(message.Data) < 4 {
			continue
		}
		if code := int32(binary.NativeEndian.Uint32(message.Data)); code != 0 {
			return os.NewSyscallError("RTM_NEWROUTE", syscall.Errno(-code))
		}
		return nil
	}
	return errors.New("the kernel didn't answer")
}
