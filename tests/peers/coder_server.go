// A server of coder/websocket, in its last version under its former name: see _servers.py for its paths, and for how
// it starts and ends.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"nhooyr.io/websocket"
)

// Given by the build.
var version = "?"

func print(values ...any) {
	line, err := json.Marshal(values)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}

func echo(ctx context.Context, connection *websocket.Conn) {
	for {
		kind, data, err := connection.Read(ctx)
		if err != nil {
			return
		}
		if connection.Write(ctx, kind, data) != nil {
			return
		}
	}
}

func handle(writer http.ResponseWriter, request *http.Request) {
	words := strings.Split(request.URL.Path, "/")
	if words[1] == "refuse" {
		status, _ := strconv.Atoi(words[2])
		writer.WriteHeader(status)
		io.WriteString(writer, "no")
		return
	}
	connection, err := websocket.Accept(writer, request, &websocket.AcceptOptions{
		Subprotocols:    []string{"second"},
		CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		log.Print(err)
		return
	}
	defer connection.Close(websocket.StatusInternalError, "the handler has failed")
	connection.SetReadLimit(1 << 26)
	switch words[1] {
	case "echo":
		echo(request.Context(), connection)
	case "close":
		code, _ := strconv.Atoi(words[2])
		connection.Close(websocket.StatusCode(code), words[3])
	case "told":
		_, _, err := connection.Read(request.Context())
		var end websocket.CloseError
		if errors.As(err, &end) {
			print(end.Code, end.Reason)
		} else {
			print(1006, err.Error())
		}
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	print(listener.Addr().(*net.TCPAddr).Port, "coder/websocket "+version)
	go http.Serve(listener, http.HandlerFunc(handle))
	io.Copy(io.Discard, os.Stdin)
}
