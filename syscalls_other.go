//go:build !amd64

package freezer

var (
	callsWithFile       = commonCallsWithFile
	callsWithPath       = commonCallsWithPath
	callsWithDirAndPath = commonCallsWithDirAndPath
)
