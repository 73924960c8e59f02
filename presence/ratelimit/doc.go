// Package ratelimit says who does too much of what: token buckets by rule and key, blocks
// and bans.
//
// A [Rule] limits one verb for each key of one kind: publishes for each session, say. Its
// bucket holds Burst tokens at most and gets Count of them back in each Per, evenly. A call
// takes what it costs from the buckets of all rules for its verb, or from none of them and
// is denied. The buckets are in a [Store] that servers share, asked once for each call, or
// in this process where there is none, or while the store does not answer.
//
// Nothing here is durable. What must stay forbidden belongs into access control.
package ratelimit
