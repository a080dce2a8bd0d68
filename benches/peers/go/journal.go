package main

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"sync"
	"syscall"
)

// journal is a log file with group commit: whatever was appended while one fdatasync ran shares the next.
type journal struct {
	mu       sync.Mutex
	arrived  *sync.Cond
	durable  *sync.Cond
	pending  []byte
	appended uint64
	synced   uint64
	file     *os.File
}

// openJournal makes the file at path, or keeps nothing when path is empty.
func openJournal(path string) (*journal, error) {
	j := &journal{}
	j.arrived = sync.NewCond(&j.mu)
	j.durable = sync.NewCond(&j.mu)
	if path == "" {
		return j, nil
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	// Allocated ahead, so that fdatasync writes no length.
	if err := syscall.Fallocate(int(file.Fd()), 0, 0, 4<<30); err != nil {
		return nil, err
	}
	j.file = file
	go j.run()
	return j, nil
}

// append puts one entry in line; its number is what await takes. The caller holds the ledger's lock, so the order of the file is
// the order of the effects.
func (j *journal) append(from, to, id string, amount int64) uint64 {
	if j.file == nil {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	start := len(j.pending)
	j.pending = append(j.pending, 0, 0, 0, 0, 0, 0, 0, 0)
	for _, text := range []string{from, to, id} {
		j.pending = append(j.pending, byte(len(text)))
		j.pending = append(j.pending, text...)
	}
	j.pending = binary.LittleEndian.AppendUint64(j.pending, uint64(amount))
	body := j.pending[start+8:]
	binary.LittleEndian.PutUint32(j.pending[start:], uint32(len(body)))
	binary.LittleEndian.PutUint32(j.pending[start+4:], crc32.Checksum(body, castagnoli))
	j.appended++
	j.arrived.Signal()
	return j.appended
}

// await returns when entry is on the disk.
func (j *journal) await(entry uint64) {
	if j.file == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.synced < entry {
		j.durable.Wait()
	}
}

func (j *journal) run() {
	var written []byte
	var offset int64
	for {
		j.mu.Lock()
		for len(j.pending) == 0 {
			j.arrived.Wait()
		}
		written, j.pending = j.pending, written[:0]
		last := j.appended
		j.mu.Unlock()
		if _, err := j.file.WriteAt(written, offset); err != nil {
			panic(err)
		}
		if err := syscall.Fdatasync(int(j.file.Fd())); err != nil {
			panic(err)
		}
		offset += int64(len(written))
		j.mu.Lock()
		j.synced = last
		j.durable.Broadcast()
		j.mu.Unlock()
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)
