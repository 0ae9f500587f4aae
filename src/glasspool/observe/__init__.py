"""What is found out about processes and threads, and how: `/proc`, frames, stacks from outside."""
