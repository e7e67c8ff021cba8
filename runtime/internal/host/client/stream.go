// Package client speaks with a guest: it opens streams, and asks what package control of the guest answers. What the
// guest says is bounded and checked, for the guest may be anybody's program.
package client

import (
	"context"
	"fmt"
	"time"

	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// OpenTimeout is how long opening a stream may take: the connection, and the guest's reply.
const OpenTimeout = 10 * time.Second

// Open opens a stream of the guest that listens at an address. A reply that says no is a *wire.RefusedError.
func Open(ctx context.Context, guest transport.Address, hello wire.Hello) (transport.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, OpenTimeout)
	defer cancel()
	conn, err := guest.Dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := greet(ctx, conn, hello); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func greet(ctx context.Context, conn transport.Conn, hello wire.Hello) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := wire.WriteHello(conn, hello); err != nil {
		return failure(ctx, err)
	}
	reply, err := wire.ReadReply(conn)
	if err != nil {
		return failure(ctx, err)
	}
	if err := reply.Err(); err != nil {
		return err
	}
	if !stop() {
		return ctx.Err()
	}
	return nil
}

// failure is the context's error where that is why reading or writing ended.
func failure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no reply: %w", ctx.Err())
	}
	return err
}
