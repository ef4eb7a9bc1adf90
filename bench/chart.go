package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// Charts as SVG, written by hand: bars with whiskers and curves of percentiles are a page of
// code, and no plotting library has to be kept up to date for them. They follow the reader's
// choice of light or dark.

const (
	chartWidth  = 800 // all in SVG's units
	labelWidth  = 150
	valueWidth  = 150
	barHeight   = 22
	titleHeight = 40
	footHeight  = 26
	curveHeight = 360
)

const chartStyle = `<style>
text { font: 13px sans-serif; fill: #222 } .small { font-size: 11px; fill: #666 }
.bar { fill: #8aa5c4 } .ours { fill: #d9822b } .axis { stroke: #999 } .whisker { stroke: #222 }
.curve { fill: none }
@media (prefers-color-scheme: dark) {
 text { fill: #ddd } .small { fill: #999 } .bar { fill: #5b7696 } .whisker { stroke: #ddd }
}
</style>
`

// canvas collects the elements of a picture.
type canvas struct{ bytes.Buffer }

func (c *canvas) text(x, y float64, anchor, class, text string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s" class="%s">`, x, y, anchor, class)
	_ = xml.EscapeText(c, []byte(text)) // a buffer takes everything
	c.WriteString("</text>\n")
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(c, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`+"\n",
		x1, y1, x2, y2, class)
}

// chart draws one table; where and when it was measured stands in the picture.
func (r *results) chart(t *table) []byte {
	var body canvas
	body.text(10, 24, "start", "", t.title()+": "+t.work.What+" ("+t.unit()+")")
	var height float64
	if t.work.Measure == latency {
		height = t.curves(&body)
	} else {
		height = t.bars(&body)
	}
	seconds := r.Seconds
	if t.work.Measure == latency && r.LatencySeconds > 0 {
		seconds = r.LatencySeconds
	}
	foot := fmt.Sprintf("%s · %s · %s, %d CPUs · rounds: %d of %d s", r.Machine.Date,
		r.Machine.Commit, r.Machine.CPU, r.Machine.CPUs, r.Rounds, seconds)
	body.text(10, height+18, "start", "small", foot)
	var picture bytes.Buffer
	fmt.Fprintf(&picture, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f">`+"\n",
		chartWidth, height+footHeight)
	picture.WriteString(chartStyle)
	picture.Write(body.Bytes())
	picture.WriteString("</svg>\n")
	return picture.Bytes()
}

// bars draws medians with whiskers from least to most, and returns the height.
func (t *table) bars(c *canvas) float64 {
	most := 0.0
	for i := range t.rows {
		most = max(most, t.rows[i].of(t.figure).most)
	}
	scale := 0.0
	if most > 0 {
		scale = (chartWidth - labelWidth - valueWidth) / most
	}
	y := float64(titleHeight)
	for i := range t.rows {
		one := &t.rows[i]
		s := one.of(t.figure)
		class := "bar"
		if one.peer == ours {
			class = "ours"
		}
		middle := y + barHeight/2
		c.text(labelWidth-8, middle+4, "end", "", one.peer)
		if s.rounds == 0 {
			c.text(labelWidth, middle+4, "start", "small", clip(one.notes()))
		} else {
			fmt.Fprintf(c, `<rect x="%d" y="%.1f" width="%.1f" height="%d" class="%s"/>`+"\n",
				labelWidth, y+3, s.median*scale, barHeight-6, class)
			c.line(labelWidth+s.least*scale, middle, labelWidth+s.most*scale, middle, "whisker")
			c.text(labelWidth+s.most*scale+6, middle+4, "start", "small", number(s.median))
		}
		y += barHeight
	}
	return y
}

// noteMax is how many characters of a note a picture has room for.
const noteMax = 90

func clip(note string) string {
	runes := []rune(note)
	if len(runes) > noteMax {
		return string(runes[:noteMax-1]) + "…"
	}
	return note
}

// curves draws the percentiles of the median round: to the right each step has ten times fewer
// requests beyond it; upwards each step is ten times the latency.
func (t *table) curves(c *canvas) float64 {
	const nines = 4.0 // the right end is 99.99 %
	top, bottom := float64(titleHeight), float64(titleHeight+curveHeight)
	left, right := 70.0, float64(chartWidth-valueWidth)
	low, high := math.Inf(1), math.Inf(-1)
	t.eachPoint(func(_ int, _, millis float64) {
		low, high = min(low, math.Floor(math.Log10(millis))), max(high, math.Ceil(math.Log10(millis)))
	})
	if math.IsInf(low, 1) {
		low, high = 0, 1
	}
	high = max(high, low+1)
	x := func(percent float64) float64 {
		return left + (right-left)*min(-math.Log10(1-percent/100), nines)/nines
	}
	y := func(millis float64) float64 {
		return bottom - (bottom-top)*(math.Log10(millis)-low)/(high-low)
	}
	for power := low; power <= high; power++ {
		at := y(math.Pow(10, power))
		c.line(left, at, right, at, "axis")
		c.text(left-6, at+4, "end", "small", fmt.Sprintf("%g ms", math.Pow(10, power)))
	}
	for _, percent := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		c.text(x(percent), bottom+16, "middle", "small", fmt.Sprintf("%g %%", percent))
	}
	paths := make([]strings.Builder, len(t.rows))
	t.eachPoint(func(i int, percent, millis float64) {
		step := " L"
		if paths[i].Len() == 0 {
			step = "M"
		}
		fmt.Fprintf(&paths[i], "%s%.1f %.1f", step, x(percent), y(millis))
	})
	for i := range t.rows {
		color, width := fmt.Sprintf("hsl(%d 50%% 50%%)", 60+i*300/len(t.rows)), 1.5
		if t.rows[i].peer == ours {
			color, width = "#d9822b", 3
		}
		fmt.Fprintf(c, `<path d="%s" class="curve" stroke="%s" stroke-width="%g"/>`+"\n",
			paths[i].String(), color, width)
		at := top + 10 + float64(i)*16
		fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="10" height="10" fill="%s"/>`+"\n",
			right+14, at-9, color)
		c.text(right+30, at, "start", "small", t.rows[i].peer)
	}
	return bottom + 22
}

// eachPoint goes through the percentiles below 100 of every row's round with the median p99.
func (t *table) eachPoint(visit func(row int, percent, millis float64)) {
	for i := range t.rows {
		one := &t.rows[i]
		middle := one.of(t.figure).median
		var chosen *cell
		for j := range one.cells {
			c := &one.cells[j]
			if c.Failure != "" || c.Latency == nil {
				continue
			}
			if chosen == nil || math.Abs(t.figure(c)-middle) < math.Abs(t.figure(chosen)-middle) {
				chosen = c
			}
		}
		if chosen == nil {
			continue
		}
		for _, p := range chosen.Latency.All {
			if p.Percent < 100 && p.Micros > 0 {
				visit(i, p.Percent, float64(p.Micros)/1e3)
			}
		}
	}
}
