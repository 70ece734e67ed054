// Command toxiproxy is Shopify's TCP proxy with one toxic more: `unavailable` lets each request through and replaces the
// answer by 503 Slow Down, so that its sender cannot know whether it was carried out.
package main

import (
	"os"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

const answer = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// Unavailable belongs on the downstream: what it sees are answers.
type Unavailable struct{}

// Pipe waits for an answer to begin, says 503 in its place, and closes the connection.
func (*Unavailable) Pipe(stub *toxics.ToxicStub) {
	select {
	case <-stub.Interrupt:
		return
	case chunk := <-stub.Input:
		if chunk != nil {
			stub.Output <- &stream.StreamChunk{Data: []byte(answer), Timestamp: chunk.Timestamp}
		}
		stub.Close()
	}
}

func main() {
	toxics.Register("unavailable", new(Unavailable))
	logger := zerolog.New(os.Stderr).With().Timestamp().Logger()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), logger)
	if err := server.Listen("0.0.0.0:8474"); err != nil {
		logger.Fatal().Err(err).Msg("cannot listen")
	}
}
