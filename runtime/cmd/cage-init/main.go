// Command cage-init is the /init of ramdisk 0: cage-guest's init alone, small, for the ramdisk of the app
// holds cage-guest already.
package main

import "cagebuild.dev/runtime/internal/pid1"

func main() {
	pid1.Main()
}
