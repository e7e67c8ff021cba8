package serve

import "testing"

func TestShare(t *testing.T) {
	for _, each := range []struct{ total, first, second, gotFirst, gotSecond int }{
		{9488, 16384, 16384, 4744, 4744},
		{9488, 10, 16384, 10, 9478},
		{9488, 16384, 10, 9478, 10},
		{9488, 4744, 4745, 4744, 4744},
		{9488, 100, 200, 100, 200},
		{1, 5, 5, 1, 1},
		{0, 5, 5, 1, 1},
	} {
		first, second := share(each.total, each.first, each.second)
		if first != each.gotFirst || second != each.gotSecond {
			t.Errorf("%d for %d and %d: got %d and %d, expected %d and %d",
				each.total, each.first, each.second, first, second, each.gotFirst, each.gotSecond)
		}
	}
}
