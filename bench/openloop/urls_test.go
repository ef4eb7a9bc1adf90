package openloop

import (
	"strings"
	"testing"
)

func TestParseURLs(t *testing.T) {
	address, cycle, err := ParseURLs([]string{"2*http://127.0.0.1:1/a", "http://127.0.0.1:1/b?c*"})
	if err != nil || address != "127.0.0.1:1" || len(cycle) != 3 ||
		!strings.HasPrefix(string(cycle[2].Wire), "GET /b?c* HTTP/1.1\r\nHost: 127.0.0.1:1\r\n") {
		t.Errorf("%q, %d messages, %v", address, len(cycle), err)
	}
	for _, args := range [][]string{nil, {"https://a/"}, {"x*http://a/"}, {"0*http://a/"},
		{"http://a/", "http://b/"}} {
		if _, _, err := ParseURLs(args); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}
