// Package netlink makes addresses local to this machine: what connects to them ends here.
// The messages are described in rtnetlink(7).
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
	return onLoopback("make local", prefix, newRoute)
}

// AddAddress gives the loopback interface an address, as "ip address add PREFIX dev lo" does, under the same
// conditions as AddLocal.
func AddAddress(prefix netip.Prefix) error {
	return onLoopback("add the address", prefix, newAddress)
}

func onLoopback(what string, prefix netip.Prefix, message func(netip.Prefix, int) []byte) error {
	loopback, err := net.InterfaceByName("lo")
	if err == nil {
		err = request(message(prefix, loopback.Index))
	}
	if err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("%s %s: %w", what, prefix, err)
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

// newRoute is the message RTM_NEWROUTE.
func newRoute(prefix netip.Prefix, device int) []byte {
	body := []byte{ // struct rtmsg, and its flags
		family(prefix), byte(prefix.Bits()), 0, 0, tableLocal, protoStatic, scopeHost, syscall.RTN_LOCAL, 0, 0, 0, 0,
	}
	body = attribute(body, syscall.RTA_DST, prefix.Addr().AsSlice())
	body = attribute(body, syscall.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(device)))
	return newItem(syscall.RTM_NEWROUTE, body)
}

// newAddress is the message RTM_NEWADDR.
func newAddress(prefix netip.Prefix, device int) []byte {
	body := []byte{family(prefix), byte(prefix.Bits()), 0, scopeHost} // struct ifaddrmsg, and its index
	body = binary.NativeEndian.AppendUint32(body, uint32(device))
	body = attribute(body, syscall.IFA_LOCAL, prefix.Addr().AsSlice())
	body = attribute(body, syscall.IFA_ADDRESS, prefix.Addr().AsSlice())
	return newItem(syscall.RTM_NEWADDR, body)
}

func family(prefix netip.Prefix) byte {
	if prefix.Addr().Is4() {
		return syscall.AF_INET
	}
	return syscall.AF_INET6
}

// newItem is a message that adds what isn't there yet, and asks for an answer.
func newItem(kind uint16, body []byte) []byte {
	order := binary.NativeEndian
	message := order.AppendUint32(nil, uint32(syscall.NLMSG_HDRLEN+len(body)))
	message = order.AppendUint16(message, kind)
	message = order.AppendUint16(
		message, syscall.NLM_F_REQUEST|syscall.NLM_F_ACK|syscall.NLM_F_CREATE|syscall.NLM_F_EXCL)
	message = order.AppendUint32(message, 1) // sequence number
	message = order.AppendUint32(message, 0) // the kernel fills in whose it is
	return append(message, body...)
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
			return os.NewSyscallError("rtnetlink", syscall.Errno(-code))
		}
		return nil
	}
	return errors.New("the kernel didn't answer")
}
