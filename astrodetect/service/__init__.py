"""What HTTP needs beside its routes."""
