package main

import (
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "equipoise/peer/gen"
)

type account struct {
	balance  int64
	version  uint64
	sequence uint64
}

// ledger is what one writes first: maps behind one lock, and a journal behind them.
type ledger struct {
	mu       sync.RWMutex
	accounts map[string]*account
	answers  map[string]*answer
	sequence uint64
	journal  *journal
}

// answer is what a transaction id was answered, and the journal entry it must not overtake.
type answer struct {
	update   *pb.UpdateBalanceResponse
	transfer *pb.TransferFundsResponse
	err      error
	entry    uint64
}

func newLedger(journal *journal) *ledger {
	return &ledger{accounts: map[string]*account{}, answers: map[string]*answer{}, journal: journal}
}

func (l *ledger) create(request *pb.CreateAccountRequest) (*pb.CreateAccountResponse, error) {
	l.mu.Lock()
	if _, known := l.accounts[request.AccountId]; known {
		l.mu.Unlock()
		return nil, status.Errorf(codes.AlreadyExists, "Account already exists: %s", request.AccountId)
	}
	l.sequence++
	opened := &account{balance: request.InitialBalance, version: 1, sequence: l.sequence}
	l.accounts[request.AccountId] = opened
	shown := &pb.Account{AccountId: request.AccountId, Balance: opened.balance, Version: 1, Sequence: opened.sequence}
	entry := l.journal.append(request.AccountId, "", request.TransactionId, request.InitialBalance)
	l.mu.Unlock()
	l.journal.await(entry)
	return &pb.CreateAccountResponse{Account: shown}, nil
}

// balance reads what is applied: unlike Equipoise's, it may be lost in a crash.
func (l *ledger) balance(request *pb.GetBalanceRequest) (*pb.GetBalanceResponse, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	found, known := l.accounts[request.AccountId]
	if !known {
		return nil, status.Errorf(codes.NotFound, "Account not found: %s", request.AccountId)
	}
	return &pb.GetBalanceResponse{Balance: found.balance, Version: found.version, Sequence: found.sequence}, nil
}

func (l *ledger) update(request *pb.UpdateBalanceRequest) (*pb.UpdateBalanceResponse, error) {
	decided := l.once(request.TransactionId, func(decided *answer) {
		target, known := l.accounts[request.AccountId]
		switch {
		case !known:
			decided.err = status.Errorf(codes.NotFound, "Account not found: %s", request.AccountId)
		case target.balance+request.Delta < 0:
			decided.err = status.Error(codes.FailedPrecondition, "Insufficient balance")
		default:
			l.change(target, request.Delta)
			decided.update = &pb.UpdateBalanceResponse{
				NewBalance: target.balance, Version: target.version, Sequence: l.sequence, CommitTime: timestamppb.New(time.Now()),
			}
		}
		decided.entry = l.journal.append(request.AccountId, "", request.TransactionId, request.Delta)
	})
	return decided.update, decided.err
}

func (l *ledger) transfer(request *pb.TransferFundsRequest) (*pb.TransferFundsResponse, error) {
	decided := l.once(request.TransactionId, func(decided *answer) {
		from, knownFrom := l.accounts[request.FromAccountId]
		to, knownTo := l.accounts[request.ToAccountId]
		switch {
		case !knownFrom || !knownTo:
			decided.err = status.Error(codes.NotFound, "Account not found")
		case request.Amount <= 0 || from == to:
			decided.err = status.Error(codes.InvalidArgument, "amount or accounts")
		case from.balance < request.Amount:
			decided.err = status.Error(codes.FailedPrecondition, "Insufficient balance")
		default:
			l.change(from, -request.Amount)
			to.balance, to.version, to.sequence = to.balance+request.Amount, to.version+1, l.sequence
			decided.transfer = &pb.TransferFundsResponse{
				FromBalance: from.balance, ToBalance: to.balance, FromVersion: from.version, ToVersion: to.version,
				Sequence: l.sequence, CommitTime: timestamppb.New(time.Now()),
			}
		}
		decided.entry = l.journal.append(request.FromAccountId, request.ToAccountId, request.TransactionId, request.Amount)
	})
	return decided.transfer, decided.err
}

func (l *ledger) change(target *account, delta int64) {
	l.sequence++
	target.balance, target.version, target.sequence = target.balance+delta, target.version+1, l.sequence
}

// once decides under the lock unless id was decided before, and returns when that is on the disk.
func (l *ledger) once(id string, decide func(*answer)) *answer {
	l.mu.Lock()
	decided, known := l.answers[id]
	if !known || id == "" {
		decided = &answer{}
		decide(decided)
		if id != "" {
			l.answers[id] = decided
		}
	}
	l.mu.Unlock()
	l.journal.await(decided.entry)
	return decided
}
