// A client of coder/websocket, in its last version under its former name: see _clients.py for what it is told to do, and
// how it starts and ends.

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"nhooyr.io/websocket"
)

// Given by the build.
var version = "?"

type task struct {
	URL         string
	Action      string
	Argument    json.RawMessage
	Protocols   []string
	Compress    string
	Authority   string
	Certificate string
	Connections int
}

func print(values ...any) {
	line, err := json.Marshal(values)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func client(told task) *http.Client {
	if told.Authority == "" {
		return http.DefaultClient
	}
	authority, err := os.ReadFile(told.Authority)
	check(err)
	configuration := &tls.Config{RootCAs: x509.NewCertPool()}
	configuration.RootCAs.AppendCertsFromPEM(authority)
	if told.Certificate != "" {
		certificate, err := tls.LoadX509KeyPair(told.Certificate, told.Certificate)
		check(err)
		configuration.Certificates = []tls.Certificate{certificate}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: configuration}}
}

func act(ctx context.Context, connection *websocket.Conn, told task) {
	var number int
	switch told.Action {
	case "fragments":
		var fragments []string
		check(json.Unmarshal(told.Argument, &fragments))
		writer, err := connection.Writer(ctx, websocket.MessageText)
		check(err)
		for _, fragment := range fragments {
			_, err := io.WriteString(writer, fragment)
			check(err)
		}
		check(writer.Close())
	case "ping":
		go func() {
			check(connection.Ping(ctx))
			print("pong")
		}()
	case "send":
		check(json.Unmarshal(told.Argument, &number))
		connection.Write(ctx, websocket.MessageText, []byte(strings.Repeat("x", number)))
	case "count":
		check(json.Unmarshal(told.Argument, &number))
		for index := 0; index < number; index++ {
			check(connection.Write(ctx, websocket.MessageText, []byte(strconv.Itoa(index))))
		}
	case "close":
		var end []any
		check(json.Unmarshal(told.Argument, &end))
		go connection.Close(websocket.StatusCode(end[0].(float64)), end[1].(string))
	case "deaf":
		time.Sleep(time.Hour)
	}
}

func echo(ctx context.Context, connection *websocket.Conn) {
	for {
		kind, data, err := connection.Read(ctx)
		if err == nil {
			err = connection.Write(ctx, kind, data)
		}
		if err != nil {
			var end websocket.CloseError
			if errors.As(err, &end) {
				print("closed", end.Code, end.Reason)
			} else {
				print("closed", 1006, err.Error())
			}
			return
		}
	}
}

func do(told task) {
	ctx := context.Background()
	options := &websocket.DialOptions{
		HTTPClient:      client(told),
		Subprotocols:    told.Protocols,
		CompressionMode: websocket.CompressionDisabled,
	}
	switch told.Compress {
	case "context":
		options.CompressionMode = websocket.CompressionContextTakeover
	case "none":
		options.CompressionMode = websocket.CompressionNoContextTakeover
	}
	opened := []*websocket.Conn{}
	for len(opened) == 0 || len(opened) < told.Connections {
		connection, response, err := websocket.Dial(ctx, told.URL, options)
		if err != nil {
			if response == nil {
				log.Fatal(err)
			}
			body, _ := io.ReadAll(response.Body)
			print("refused", response.StatusCode, response.Header.Get("X-Why"), string(body))
			return
		}
		connection.SetReadLimit(1 << 26)
		opened = append(opened, connection)
	}
	if protocol := opened[0].Subprotocol(); protocol == "" {
		print("open", nil)
	} else {
		print("open", protocol)
	}
	for _, connection := range opened {
		act(ctx, connection, told)
		echo(ctx, connection)
	}
}

func main() {
	print(nil, "coder/websocket "+version)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var told task
		check(json.Unmarshal(lines.Bytes(), &told))
		go do(told)
	}
}
