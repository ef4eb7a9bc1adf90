package http1

import (
	"strings"
	"testing"
)

// TestClassTable holds every class to the characters that its grammar lists.
func TestClassTable(t *testing.T) {
	const (
		digits  = "0123456789"
		letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
		visible = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~" + digits + letters
	)
	var obsText strings.Builder
	for c := 0x80; c < 0x100; c++ {
		obsText.WriteByte(byte(c))
	}
	without := func(set, cut string) string {
		return strings.Map(func(r rune) rune {
			if strings.ContainsRune(cut, r) {
				return -1
			}
			return r
		}, set)
	}
	for _, c := range []struct {
		name string
		bit  uint8
		set  string
	}{
		{"tchar", inToken, "!#$%&'*+-.^_`|~" + digits + letters},
		{"target", inTarget, without(visible, "#")},
		{"field value", inValue, "\t " + visible + obsText.String()},
		{"qdtext", inQuoted, "\t " + without(visible, "\"\\") + obsText.String()},
		{"reg-name", inRegName, "-._~!$&'()*+;=" + digits + letters},
		{"HEXDIG", isHex, digits + "abcdefABCDEF"},
		{"underscore", isUnderscore, "_"},
	} {
		for b := range 256 {
			want := strings.IndexByte(c.set, byte(b)) >= 0
			if got := class[b]&c.bit != 0; got != want {
				t.Errorf("%s: byte %#x: got %v, want %v", c.name, b, got, want)
			}
		}
	}
}
