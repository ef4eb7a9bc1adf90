package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"gophersnake/server/internal/logs"
)

// unixPathBytesMax is sun_path without its end.
const unixPathBytesMax = 107

// The readers below return the function of a row of the table. An error's text is advice: it
// follows the setting and its value in an Error.
type reader = func(c *Config, text string) error

func text(field func(*Config) *string) reader {
	return func(c *Config, text string) error {
		if text == "" || strings.ContainsRune(text, 0) {
			return errors.New("give a path")
		}
		*field(c) = text
		return nil
	}
}

func count(least, most int, field func(*Config) *int) reader {
	return func(c *Config, text string) error {
		n, err := parseCount(text, least, most)
		*field(c) = n
		return err
	}
}

// autoCount also takes the word auto, which leaves the field 0 for complete.
func autoCount(most int, field func(*Config) *int) reader {
	return func(c *Config, text string) error {
		if text == "auto" {
			*field(c) = 0
			return nil
		}
		n, err := parseCount(text, 1, most)
		*field(c) = n
		return err
	}
}

func duration(least time.Duration, field func(*Config) *time.Duration) reader {
	return func(c *Config, text string) error {
		d, err := parseDuration(text)
		if err == nil && (d < least || d > durationMax) {
			err = fmt.Errorf("give a time up to %v", durationMax)
			if least > 0 {
				err = fmt.Errorf("give a time above 0 and up to %v", durationMax)
			}
		}
		*field(c) = d
		return err
	}
}

func size(least, most int64, set func(*Config, int64)) reader {
	return func(c *Config, text string) error {
		n, err := parseSize(text)
		if err == nil && (n < least || n > most) {
			err = fmt.Errorf("give a size from %d to %d bytes", least, most)
		}
		set(c, n)
		return err
	}
}

func readListen(c *Config, text string) error {
	a, err := parseAddress(strings.TrimSpace(text))
	if err != nil {
		return err
	}
	if len(c.Listen) == ListenersMax {
		return fmt.Errorf("give at most %d addresses", ListenersMax)
	}
	c.Listen = append(c.Listen, a)
	return nil
}

func readLogLevel(c *Config, text string) (err error) {
	c.LogLevel, err = logs.ParseLevel(text)
	return err
}

func toggle(field func(*Config) *bool) reader {
	return func(c *Config, text string) error {
		switch text {
		case "on", "true", "1":
			*field(c) = true
		case "off", "false", "0", "":
			*field(c) = false
		default:
			return errors.New("write on or off")
		}
		return nil
	}
}

func readQueue(c *Config, text string) (err error) {
	c.Limits.QueueMax = unset
	if text != "auto" {
		c.Limits.QueueMax, err = parseCount(text, 0, queueMax)
	}
	return err
}

func readJitter(c *Config, text string) (err error) {
	c.Recycling.RequestsJitter = unset
	if text != "auto" {
		c.Recycling.RequestsJitter, err = parseCount(text, 0, requestsMax)
	}
	return err
}

func parseCount(text string, least, most int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("give a whole number from %d to %d", least, most)
	}
	return n, nil
}

// parseDuration reads Go's notation, and a bare number as seconds: gunicorn's users write 30.
func parseDuration(text string) (time.Duration, error) {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(seconds) {
		if math.Abs(seconds) > durationMax.Seconds() {
			return durationMax + 1, nil // the caller's bound refuses it
		}
		return time.Duration(seconds * float64(time.Second)), nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, errors.New("give a time such as 30s, 2m or 250ms, or a number of seconds")
	}
	return d, nil
}

// parseSize reads a whole number of bytes with an optional unit, upper or lower case. A bare K,
// M or G is a power of 1024, as in nginx.
func parseSize(text string) (int64, error) {
	advice := errors.New("give a size such as 100MiB, 64KB or a number of bytes")
	digits := strings.TrimRight(text, "BbIiKkMmGg ")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, advice
	}
	units := map[string]int64{"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9,
		"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
	unit, known := units[strings.ToLower(strings.TrimSpace(text[len(digits):]))]
	if !known {
		return 0, advice
	}
	if n > math.MaxInt64/unit {
		return 0, errors.New("is too large")
	}
	return n * unit, nil
}

// parseAddress reads HOST:PORT, [v6]:PORT, :PORT or unix:PATH. Go listens on IPv6 too when it
// is given 0.0.0.0 with network tcp; who writes an IPv4 address means that one.
func parseAddress(text string) (Address, error) {
	if path, isUnix := strings.CutPrefix(text, "unix:"); isUnix {
		switch {
		case path == "" || strings.HasPrefix(path, "@") || strings.ContainsRune(path, 0):
			return Address{}, errors.New("give unix: and the path of a socket file")
		case len(path) > unixPathBytesMax:
			return Address{}, fmt.Errorf("the path has %d bytes; the kernel takes at most %d",
				len(path), unixPathBytesMax)
		}
		return Address{"unix", path}, nil
	}
	advice := errors.New("give HOST:PORT, [IPv6]:PORT, :PORT or unix:PATH; " +
		"ports go from 0 to 65535")
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return Address{}, advice
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strings.ContainsAny(host, " /\t\x00") {
		return Address{}, advice
	}
	a := Address{"tcp", net.JoinHostPort(host, strconv.FormatUint(number, 10))}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
		a.Network = "tcp4"
	}
	return a, nil
}
