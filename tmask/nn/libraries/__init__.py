"""What other libraries put into a model, told by its form alone: adapters, and hooks that bring weights in."""
