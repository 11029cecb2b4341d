// Package clickhouse lets clickhouse-go speak to hearth-clickhouse over HTTP.
package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// failsLate fails after more than what is held before a status is sent.
const failsLate = "SELECT throwIf(number = 3999999), cityHash64(number) FROM numbers(4000000) SETTINGS max_block_size = 10000"

func open(t *testing.T, method clickhouse.CompressionMethod, password string) clickhouse.Conn {
	t.Helper()
	address := strings.TrimPrefix(os.Getenv("HEARTH_TEST_CLICKHOUSE"), "http://")
	if address == "" {
		t.Skip("HEARTH_TEST_CLICKHOUSE names no server")
	}
	conn, err := clickhouse.Open(&clickhouse.Options{
		Protocol:    clickhouse.HTTP,
		Addr:        []string{address},
		Auth:        clickhouse.Auth{Database: "default", Username: "default", Password: password},
		Compression: &clickhouse.Compression{Method: method, Level: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// code is the number of the exception within err, or 0.
func code(err error) int32 {
	var exception *clickhouse.Exception
	if errors.As(err, &exception) {
		return exception.Code
	}
	return 0
}

func TestConversation(t *testing.T) {
	methods := map[string]clickhouse.CompressionMethod{
		"none": clickhouse.CompressionNone,
		"lz4":  clickhouse.CompressionLZ4,
		"zstd": clickhouse.CompressionZSTD,
		"gzip": clickhouse.CompressionGZIP,
	}
	for name, method := range methods {
		t.Run(name, func(t *testing.T) {
			converse(t, open(t, method, os.Getenv("HEARTH_TEST_PASSWORD")), "go_"+name)
		})
	}
}

func converse(t *testing.T, conn clickhouse.Conn, table string) {
	ctx := context.Background()
	if err := conn.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	create := fmt.Sprintf("CREATE TABLE %s (id UInt64, name LowCardinality(String), tags Array(String)) ENGINE = MergeTree ORDER BY id", table)
	if err := conn.Exec(ctx, create); err != nil {
		t.Fatal(err)
	}
	const rows = 100_000
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO "+table)
	if err != nil {
		t.Fatal(err)
	}
	for id := range uint64(rows) {
		if err := batch.Append(id, fmt.Sprint("name ", id%7), []string{"a\n", fmt.Sprint(id)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}

	query := fmt.Sprintf("SELECT id, name, tags FROM %s WHERE name = {name:String} ORDER BY id", table)
	found, err := conn.Query(ctx, query, clickhouse.Named("name", "name 3"))
	if err != nil {
		t.Fatal(err)
	}
	count := uint64(0)
	for ; found.Next(); count++ {
		var id uint64
		var name string
		var tags []string
		if err := found.Scan(&id, &name, &tags); err != nil {
			t.Fatal(err)
		}
		if id != 7*count+3 || name != "name 3" || tags[0] != "a\n" || tags[1] != fmt.Sprint(id) {
			t.Fatalf("row %d: %d %q %q", count, id, name, tags)
		}
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	if count != 14286 {
		t.Errorf("%d rows", count)
	}

	var (
		amount map[string]uint8
		maybe  *string
		maybes []*string
		tuple  map[string]any
		types  = "SELECT map('a', toUInt8(1)), toLowCardinality(toNullable('x')), [NULL, 'y'], CAST((1, 'z'), 'Tuple(n UInt8, s String)')"
	)
	if err := conn.QueryRow(ctx, types).Scan(&amount, &maybe, &maybes, &tuple); err != nil {
		t.Fatal(err)
	}
	if amount["a"] != 1 || *maybe != "x" || maybes[0] != nil || *maybes[1] != "y" || tuple["s"] != "z" {
		t.Errorf("%v %v %v %v", amount, maybe, maybes, tuple)
	}

	if err := conn.Exec(ctx, "DROP TABLE nosuch"); code(err) != 60 {
		t.Errorf("a table that is not there: %v", err)
	}
	if _, err := conn.Query(ctx, "SELECT nosuch"); code(err) != 47 {
		t.Errorf("a column that is not there: %v", err)
	}
	late, err := conn.Query(ctx, failsLate)
	if err == nil {
		for late.Next() {
		}
		err = late.Err()
	}
	if code(err) != 395 {
		t.Errorf("an exception in the midst of the answer: %v", err)
	}
}

func TestWrongPassword(t *testing.T) {
	conn := open(t, clickhouse.CompressionLZ4, "wrong")
	if err := conn.Ping(context.Background()); code(err) != 516 {
		t.Errorf("%v", err)
	}
}
