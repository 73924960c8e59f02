// Package presence is live state: who is here, and what they show each other. Nothing of
// it is durable, and nothing in the log depends on it.
//
// A [Roster] is what is so now on one topic: entries by key, the last value wins. Each
// server holds the entries of its own sessions; a [Store] shares them between servers, and
// without one a server is alone and right at once. What a client is sent it pulls through a
// [View], which is a place in the order of changes: a slow client gets the newest value of
// each entry that changed, and no queue grows behind it.
//
// [Rosters] keeps the rosters of one kind. Users on topics, cursors and groups are three
// kinds; cursors and groups have packages of their own.
package presence
