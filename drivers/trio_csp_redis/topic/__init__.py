"""Topics: every subscriber gets every value, or is told how many it missed.

- `scripts`: what the server does in one step
- `position`: what a subscription has seen of a topic, and what it missed
- `published`: `Published`, a value of a topic
- `topic_reading`: what a subscription reads
- `updates`: `Updates`, the block and source of a subscription
- `topic`: `Topic`
"""
