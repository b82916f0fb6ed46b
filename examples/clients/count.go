// Count hits from Go: go run count.go PATH [HITS]
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"os"
)

// Count returns nil once the hits are counted. One connection serves any number of calls, one after the other.
func Count(connection net.Conn, answers *bufio.Reader, path, hits string) error {
	if _, err := fmt.Fprintf(connection, "%s %s\n", hits, path); err != nil {
		return err
	}
	answer, err := answers.ReadString('\n')
	if err != nil {
		return fmt.Errorf("no answer: counted or not: %w", err)
	}
	if answer != "ok\n" {
		return fmt.Errorf("%s", answer)
	}
	return nil
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: count PATH [HITS]")
	}
	socket := os.Getenv("HITLEDGER_INTAKE_SOCKET")
	if socket == "" {
		socket = ".hitledger/intake.sock"
	}
	connection, err := net.Dial("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	hits := append(os.Args, "1")[2]
	if err := Count(connection, bufio.NewReader(connection), os.Args[1], hits); err != nil {
		log.Fatal(err)
	}
}
