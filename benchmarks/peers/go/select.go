// What a value costs through reflect.Select over N channels, of which one has a producer.
//
//	select COUNT N...
//
// prints the Go version and, for each N, the CPU time of this process in nanoseconds a value, as JSON.
package main

import (
	"encoding/json"
	"log"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

const capacity = 100

func main() {
	runtime.GOMAXPROCS(1)
	numbers := make([]int, len(os.Args)-1)
	for i, argument := range os.Args[1:] {
		number, err := strconv.Atoi(argument)
		if err != nil || number < 1 {
			log.Fatalf("not a positive number: %s", argument)
		}
		numbers[i] = number
	}
	if len(numbers) < 2 {
		log.Fatal("usage: select COUNT N...")
	}
	costs := make(map[int]float64)
	for _, size := range numbers[1:] {
		costs[size] = measure(size, numbers[0])
	}
	err := json.NewEncoder(os.Stdout).Encode(map[string]interface{}{"go": runtime.Version(), "nanoseconds": costs})
	if err != nil {
		log.Fatal(err)
	}
}

// measure returns the nanoseconds of CPU time that each of count values costs. The cases are made once.
func measure(size, count int) float64 {
	channels := make([]chan struct{}, size)
	cases := make([]reflect.SelectCase, size)
	for i := range channels {
		channels[i] = make(chan struct{}, capacity)
		cases[i] = reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(channels[i])}
	}
	go produce(channels[0])
	for len(channels[0]) < capacity {
		runtime.Gosched()
	}
	runtime.GC()
	before := cpuTime()
	for i := 0; i < count; i++ {
		reflect.Select(cases)
	}
	return float64(cpuTime()-before) / float64(count)
}

// produce sends until the program ends.
func produce(channel chan<- struct{}) {
	for {
		channel <- struct{}{}
	}
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
