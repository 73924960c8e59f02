package client

// unsubscribed does again what the end of a subscription to a topic undid.
func (c *Client) unsubscribed(topic string) {}
