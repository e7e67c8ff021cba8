package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// accepted takes a connection of the app. done is called when it is opened, or isn't going to be.
func (e *Egress) accepted(app *net.TCPConn, done func()) {
	local := app.LocalAddr().(*net.TCPAddr).AddrPort()
	host, err := e.target(local)
	if err != nil {
		e.refuse(app, wire.Denied, local.String(), "a connection is reset: %v", err)
		done()
		return
	}
	if !e.flow.begin() {
		e.refuse(app, wire.Busy, "", "connections are reset: there are as many as there may be")
		done()
		return
	}
	go func() {
		defer done()
		defer e.flow.opened()
		e.open(app, host, local.Port())
	}()
}

// open connects the app with its destination, or resets its connection: nothing is tried twice, for the app
// knows better when to.
func (e *Egress) open(app *net.TCPConn, host string, port uint16) {
	stream, err := e.ask(host, port)
	if err != nil {
		code, kind := noParent, ""
		if refused, ok := errors.AsType[*wire.RefusedError](err); ok {
			code, kind = reason(refused.Reply.Code), fmt.Sprint(host, " ", port)
		}
		e.refuse(app, code, kind, "%s, port %d: %.300v", host, port, err)
		e.flow.end()
		return
	}
	e.counts.opened.Inc()
	e.options.Relay.Pair(app, stream, func(result relay.Result) {
		e.counts.out.Add(result.AToB)
		e.counts.in.Add(result.BToA)
		e.flow.end()
	})
}

// refuse resets the app's connection, and says why, once in a while for each kind.
func (e *Egress) refuse(app *net.TCPConn, code wire.Code, kind, format string, arguments ...any) {
	_ = app.SetLinger(0)
	_ = app.Close()
	e.counts.refused.Inc(string(code))
	e.notes.say(string(code)+" "+kind, "egress: "+format, arguments...)
}

// ask has the parent open a stream. The error is a *wire.RefusedError if the parent said why it didn't.
func (e *Egress) ask(host string, port uint16) (transport.Conn, error) {
	ctx, cancel := context.WithTimeout(e.context, e.options.OpenTimeout)
	defer cancel()
	stream, err := e.options.Parent.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("the parent can't be reached: %w", err)
	}
	if err := greet(ctx, stream, host, port); err != nil {
		_ = stream.Close()
		return nil, err
	}
	return stream, nil
}

func greet(ctx context.Context, stream transport.Conn, host string, port uint16) error {
	stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := wire.WriteHello(stream, wire.Hello{Stream: wire.Egress, Host: host, Port: port}); err != nil {
		return fmt.Errorf("the parent takes no hello: %w", err)
	}
	reply, err := wire.ReadReply(stream)
	switch {
	case !stop():
		return fmt.Errorf("the parent doesn't answer: %w", context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("the parent answers wrongly: %w", err)
	}
	return reply.Err()
}
