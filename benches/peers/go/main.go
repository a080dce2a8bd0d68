// A peer to measure against: the account service as one writes it with a lock, in Go, with a journal in group commit.
//
// It prints its address and serves until its standard input ends.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"

	pb "equipoise/peer/gen"
)

type service struct {
	pb.UnimplementedAccountServiceServer
	ledger *ledger
}

func (s *service) CreateAccount(_ context.Context, r *pb.CreateAccountRequest) (*pb.CreateAccountResponse, error) {
	return s.ledger.create(r)
}

func (s *service) GetBalance(_ context.Context, r *pb.GetBalanceRequest) (*pb.GetBalanceResponse, error) {
	return s.ledger.balance(r)
}

func (s *service) UpdateBalance(_ context.Context, r *pb.UpdateBalanceRequest) (*pb.UpdateBalanceResponse, error) {
	return s.ledger.update(r)
}

func (s *service) TransferFunds(_ context.Context, r *pb.TransferFundsRequest) (*pb.TransferFundsResponse, error) {
	return s.ledger.transfer(r)
}

func main() {
	path := flag.String("journal", "", "file of the journal; without it, nothing is kept")
	accounts := flag.Int("accounts", 0, "accounts account-00000000, ... opened at the start")
	initial := flag.Int64("initial", 1_000_000_000, "what they open with")
	flag.Parse()
	journal, err := openJournal(*path)
	if err != nil {
		log.Fatal(err)
	}
	ledger := newLedger(journal)
	for number := range *accounts {
		ledger.sequence++
		ledger.accounts[fmt.Sprintf("account-%08d", number)] = &account{balance: *initial, version: 1, sequence: ledger.sequence}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterAccountServiceServer(server, &service{ledger: ledger})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	fmt.Println(listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
