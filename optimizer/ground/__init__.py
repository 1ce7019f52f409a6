"""Copies, randomness, several processes, too little memory, the code of users."""
