package e2e

import (
	"regexp"
	"strings"
	"testing"
)

// liberties are fixtures that break PEP 3333 on purpose, or that wsgiref.validate finds fault
// with for a reason that is its own: it takes no bytes or str as a result, wants a Content-Type
// where there is none, and looks at write() and close() more narrowly than the PEP.
var liberties = regexp.MustCompile(`^/(` + strings.Join([]string{
	"return_bytes", "return_subclass", "getitem_iterable", "attributes_watched", "length_lies",
	"write_str", "start_twice", "hop_by_hop", "length_too_long", "length_too_short", "own_date",
	"headers_mutated", "big_header", "reasons", "input_unread", "input_methods", "no_content",
	"not_modified", "close_raises", "raises_", "positional_arguments", "file_wrapper_length",
}, "|") + `)`)

// TestValidated runs what the PEP allows behind wsgiref.validate: the server must give it
// nothing to complain about, in the answer or in the log.
func TestValidated(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := start(t, python, "fixtures:validated", "--chdir", absolute(appsDir), "--workers", "1")
		for _, e := range exchanges {
			if e.status != 200 || e.cut || liberties.MatchString(e.path) {
				continue
			}
			t.Run(strings.ReplaceAll(strings.Trim(e.path, "/"), "/", "."), func(t *testing.T) {
				s.exchange(t, e)
			})
		}
		complaint := regexp.MustCompile(`.*(AssertionError|WSGIWarning|without being closed).*`)
		if found := complaint.FindString(s.log.text()); found != "" {
			t.Errorf("log: got %q, want no complaint of wsgiref.validate", found)
		}
	})
}
