package replay

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// smallRow is the size below which Postgres moves no value of a row out of line, and so never
// leaves one out of the stream: toast_tuple_target is at least 128.
const smallRow = 128

// images remember what rows looked like last, for the large values that Postgres leaves out
// when they have not changed. What a large transaction has changed before its end is
// remembered apart.
type images struct {
	limit, size int
	rows        *simplelru.LRU[string, *image]
	lost        func(xid uint64) // an image of a large transaction had to go
	quiet       bool             // what goes now goes on purpose
}

type image struct {
	xid    uint64 // 0: committed
	subxid uint64
	size   int
	values []imageValue
}

type imageValue struct {
	column string
	value  []byte // nil is null
}

func (i *image) get(column string) ([]byte, bool) {
	for _, v := range i.values {
		if v.column == column {
			return v.value, true
		}
	}
	return nil, false
}

// imageCost is about what an image takes beside its values.
const imageCost, valueCost = 320, 56

func newImages(limit int, lost func(xid uint64)) *images {
	im := &images{limit: limit, lost: lost}
	im.rows, _ = simplelru.NewLRU(math.MaxInt, func(_ string, i *image) { // its only error is a size that is not positive
		im.size -= i.size
		if i.xid != 0 && !im.quiet {
			im.lost(i.xid)
		}
	})
	return im
}

// imageKey names a row: "" where it has no key by which it could be named.
func imageKey(rel *relation, xid uint64, row [][]byte) string {
	if len(rel.keys) == 0 {
		return ""
	}
	size := 12
	for _, i := range rel.keys {
		size += 4 + len(row[i])
	}
	b := make([]byte, 0, size)
	b = binary.BigEndian.AppendUint32(b, rel.id)
	b = binary.BigEndian.AppendUint64(b, xid)
	for _, i := range rel.keys {
		b = binary.BigEndian.AppendUint32(b, uint32(len(row[i])))
		b = append(b, row[i]...)
	}
	return string(b)
}

// neverOutOfLine are types whose values have a fixed, small size.
var neverOutOfLine = map[uint32]bool{16: true, 18: true, 20: true, 21: true, 23: true, 26: true, 700: true, 701: true, 790: true, 829: true,
	1082: true, 1083: true, 1114: true, 1184: true, 1186: true, 1266: true, 2950: true}

// follow completes a change by the images where it can, and takes note of it.
func (im *images) follow(c *change, t *streamedTx) {
	rel := c.rel
	if rel.full || !rel.mayLeaveOut || rel.isPublished {
		return
	}
	xid := uint64(0)
	if t != nil {
		xid = t.xid
	}
	var was *image
	oldKey := ""
	if c.op != 'I' {
		oldKey = imageKey(rel, xid, c.old)
		was = im.look(rel, oldKey, c.old, t)
	}
	if c.op == 'D' {
		im.remove(oldKey)
		return
	}
	key := imageKey(rel, xid, c.new)
	unknown := c.toast[:0:0]
	for _, i := range c.toast {
		name := rel.columns[i].Name
		if was != nil {
			if v, ok := was.get(name); ok {
				c.new[i], c.old[i] = v, v
				c.size += len(v)
				continue
			}
		}
		unknown = append(unknown, i)
	}
	c.toast = unknown
	if key != oldKey && oldKey != "" {
		im.remove(oldKey)
	}
	c.key = key
	im.note(c, xid)
}

// look finds the image that counts for a change of a transaction.
func (im *images) look(rel *relation, key string, row [][]byte, t *streamedTx) *image {
	if key == "" {
		return nil
	}
	if i, ok := im.rows.Get(key); ok {
		return i
	}
	if t == nil || t.lossy {
		return nil // the committed one may be older than what the transaction has changed
	}
	i, _ := im.rows.Get(imageKey(rel, 0, row))
	return i
}

// note remembers the row as it is after the change.
func (im *images) note(c *change, xid uint64) {
	if c.key == "" {
		return
	}
	i := &image{xid: xid, subxid: c.subxid, size: len(c.key) + imageCost}
	row := 0
	for n, col := range c.rel.columns {
		row += len(c.new[n])
		if neverOutOfLine[col.Type] || slices.Contains(c.toast, n) {
			continue
		}
		i.values = append(i.values, imageValue{col.Name, c.new[n]})
		i.size += len(c.new[n]) + valueCost
	}
	if row < smallRow && len(c.toast) == 0 || i.size > im.limit {
		if i.size > im.limit && xid != 0 {
			im.lost(xid)
		}
		im.remove(c.key)
		return
	}
	im.remove(c.key)
	im.rows.Add(c.key, i)
	im.size += i.size
	for im.size > im.limit {
		im.rows.RemoveOldest()
	}
}

// learn adds what was read of a row, unless the stream has told more of it since.
func (im *images) learn(key, column string, value []byte) {
	i, ok := im.rows.Peek(key)
	if !ok {
		return
	}
	if _, known := i.get(column); known {
		return
	}
	i.values = append(i.values, imageValue{column, value})
	i.size += len(value) + valueCost
	im.size += len(value) + valueCost
	for im.size > im.limit {
		im.rows.RemoveOldest()
	}
}

func (im *images) remove(key string) {
	im.quiet = true
	im.rows.Remove(key)
	im.quiet = false
}

func (im *images) clear() { im.drop("", func(*image) bool { return true }) }

// forget forgets the rows of a table that are committed.
func (im *images) forget(id uint32) {
	im.drop(string(binary.BigEndian.AppendUint32(nil, id)), func(i *image) bool { return i.xid == 0 })
}

// undo forgets what a transaction, or one of its subtransactions, has changed.
func (im *images) undo(xid, subxid uint64) (any bool) {
	im.drop("", func(i *image) bool {
		gone := i.xid == xid && (subxid == xid || i.subxid == subxid)
		any = any || gone
		return gone
	})
	return any
}

// commit makes what a transaction has changed what is committed. An older image of a row that
// it has made small stays, and does no harm: what is left out of the stream was large, and is
// in the newest image.
func (im *images) commit(xid uint64) {
	im.quiet = true
	for _, key := range im.rows.Keys() { // the oldest first, so that the order stays
		i, ok := im.rows.Peek(key)
		if !ok || i.xid != xid {
			continue
		}
		im.rows.Remove(key)
		i.xid, i.subxid = 0, 0
		b := []byte(key)
		clear(b[4:12])
		im.rows.Remove(string(b))
		im.rows.Add(string(b), i)
		im.size += i.size
	}
	im.quiet = false
}

func (im *images) drop(prefix string, which func(*image) bool) {
	im.quiet = true
	for _, key := range im.rows.Keys() {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if i, ok := im.rows.Peek(key); ok && which(i) {
			im.rows.Remove(key)
		}
	}
	im.quiet = false
}
