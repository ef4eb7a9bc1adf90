package openloop

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// timesMax is how often in a row a URL can be asked for, by N*.
const timesMax = 1_000

// ParseURLs makes a cycle of GET requests from arguments of the form [N*]URL, where N asks N times
// in a row. All are of one host, whose address comes first; any length of an answer will do.
func ParseURLs(args []string) (address string, cycle []Message, err error) {
	for _, arg := range args {
		times := 1
		if n, rest, found := strings.Cut(arg, "*"); found && !strings.Contains(n, "/") {
			if times, err = strconv.Atoi(n); err != nil || times < 1 || times > timesMax {
				return "", nil, fmt.Errorf("%s: %q is no number from 1 to %d", arg, n, timesMax)
			}
			arg = rest
		}
		u, err := url.Parse(arg)
		if err != nil {
			return "", nil, err
		}
		if u.Scheme != "http" || u.Host == "" {
			return "", nil, fmt.Errorf("%s: not an http:// URL", arg)
		}
		host := u.Host
		if u.Port() == "" {
			host = net.JoinHostPort(u.Hostname(), "80")
		}
		if address != "" && host != address {
			return "", nil, fmt.Errorf("%s: not on %s", arg, address)
		}
		address = host
		m := Message{Class: u.Path, Method: "GET", Length: -1,
			Wire: []byte("GET " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host + "\r\n\r\n")}
		for range times {
			cycle = append(cycle, m)
		}
	}
	if len(cycle) == 0 {
		return "", nil, errors.New("no URL")
	}
	return address, cycle, nil
}
