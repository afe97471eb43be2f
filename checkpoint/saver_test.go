//go:build amd64

package checkpoint

const saverEnv = "CHECKPOINT_TEST_SAVER"

func beSaver(string) {}
