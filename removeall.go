package freezer

import (
	"context"
	"errors"
	"slices"
)

// RemoveAll kills what is in the group and below it, as Kill does, and removes
// the group and its descendants.
func (g *Group) RemoveAll(ctx context.Context) error {
	if err := g.Kill(ctx); err != nil {
		return err
	}
	all, err := g.Walk()
	if err != nil {
		return err
	}
	for _, sub := range slices.Backward(all) {
		err := sub.Remove()
		sub.Close()
		if err != nil && (sub == g || !errors.Is(err, ErrNotExist)) {
			return err
		}
	}
	return nil
}
