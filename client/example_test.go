package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/pgcast/pgcast/client"
)

type message struct {
	ID   int
	Body string
}

// Events of a topic, from the very beginning, in a process that goes on where it was.
func ExampleTopic_Events() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := client.New("ws://localhost:8080", &client.Options{Places: client.FilePlaces("places")})
	go func() { _ = c.Run(ctx) }()
	room := c.Topic("room:1", &client.TopicOptions{From: &client.From{}})
	for e, err := range room.Events(ctx) {
		var gap client.Gap
		switch {
		case errors.As(err, &gap):
			log.Printf("events up to %d are gone", gap.Tail-1)
			continue
		case err != nil:
			log.Fatal(err)
		}
		m, err := client.Decode[message](e)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Seq, e.Name, m.Body)
	}
}

// What a topic holds, and then what happens to it.
func ExampleTopic_Items() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := client.New("ws://localhost:8080", nil)
	go func() { _ = c.Run(ctx) }()
	held := 0
	for item, err := range c.Topic("room:1", &client.TopicOptions{Snapshot: true}).Items(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		switch it := item.(type) {
		case client.Snapshot:
			if it.First {
				held = 0
			}
			held += len(it.Rows)
		case client.Event:
			fmt.Println(it.Name, string(it.Data))
		case client.Denied:
			fmt.Println("not for us:", it.Reason)
		}
	}
}

// A live table.
func ExampleRows() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := client.New("ws://localhost:8080", nil)
	go func() { _ = c.Run(ctx) }()
	rows := client.NewRows(c.Topic("room:1", &client.TopicOptions{Snapshot: true}), func(m message) int { return m.ID })
	go func() { _ = rows.Run(ctx) }()
	for change, err := range rows.Changes(ctx) {
		switch {
		case err != nil:
			log.Fatal(err)
		case change.Gone:
			fmt.Println(change.Key, "is gone")
		default:
			fmt.Println(change.Key, "is", change.Value.Body)
		}
	}
}

// Places that are kept in memory outlive a client, not the process.
func ExampleMemoryPlaces() {
	var places client.MemoryPlaces
	ctx := context.Background()
	if err := places.Store(ctx, "room:1", client.From{After: 41, ID: "29-64d2c5b18fbcd"}); err != nil {
		log.Fatal(err)
	}
	place, err := places.Load(ctx, "room:1")
	fmt.Println(place.After, err)
	// Output: 41 <nil>
}
