//go:build race

package loop

// raceDetector allocates for itself.
const raceDetector = true
